"""An order, as both Python services check it: the same fields and bounds as the built-in order event of ours."""
from typing import Optional

from pydantic import BaseModel, Field


class Item(BaseModel):
    sku: str
    quantity: int = Field(gt=0)
    unitPrice: float = Field(ge=0)


class Order(BaseModel):
    orderId: Optional[str] = Field(default=None, min_length=1, max_length=200)
    customerId: str = Field(min_length=1)
    items: list[Item] = Field(min_length=1)
    totalAmount: float = Field(ge=0)
    tenantId: Optional[str] = None
    channel: Optional[str] = None
